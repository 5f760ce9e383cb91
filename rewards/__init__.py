"""Tasks and scoring, in text. Knows neither torch nor Ray."""
