"""What goes wrong around a training script, and an oracle that counts every point afterwards."""
