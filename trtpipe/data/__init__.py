"""What goes into models and comes out of them: pictures, tensors, decisions, ground truth, figures."""
