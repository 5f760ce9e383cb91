"""Rollout engines: token ids in, token ids and the sampler's log-probabilities out, as a stream."""
