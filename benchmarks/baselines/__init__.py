"""What people would use instead of Muster, each as its documentation would have it, in a file of its own."""
