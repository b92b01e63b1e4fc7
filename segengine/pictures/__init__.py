"""What people look at: frames with what was made of them."""
