"""What a training is: its settings, its model, how it runs and is checkpointed, and finished trials read back."""
