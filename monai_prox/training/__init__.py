"""What trains a family, whoever runs the loop: stages and recipes, the engine, the monitor."""
