"""What goes into models and comes out of them: tensors, pictures, labels, metrics, decisions."""
