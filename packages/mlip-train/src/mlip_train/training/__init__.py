"""Lightning module, callbacks, strategy, schedule, checkpoints and fine-tuning."""
