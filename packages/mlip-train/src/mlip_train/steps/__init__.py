"""Loss and training steps: eager and compiled."""
