"""What tests share: ways to call commands, tiny tasks and networks, batches, comparisons."""
