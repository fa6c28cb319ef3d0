"""What a trained network is for: views of images, predictions, bundles."""
