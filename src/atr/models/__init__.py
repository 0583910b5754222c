"""Log-mel front end, encoders, and the two-tower model around them."""
