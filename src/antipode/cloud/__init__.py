"""One OpenStack site as antipode needs it; knows nothing of VNFs."""
