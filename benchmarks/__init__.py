"""What OpenDify costs, beside the least that the same parts can cost. Linux only; nothing here is installed."""
