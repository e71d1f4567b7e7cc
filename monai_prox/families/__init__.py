"""The networks that a supernet can be: the stock network of each member, and the place of its tensors in the largest one."""
