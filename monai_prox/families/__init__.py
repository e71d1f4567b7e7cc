"""The networks that a supernet can be: which stock network a subnet is, and how its tensors lie in the largest one's."""
