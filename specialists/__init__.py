"""What makes a domain specialist: tasks, demonstrations, SFT, and the SFT to GRPO composition."""
