"""A trained family as the MONAI model zoo and Hugging Face want it: a card, a bundle a member, and what tests them."""
