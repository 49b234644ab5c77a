"""What the labelling and reward servers share."""
