"""antipode: geo-site disaster recovery for VNFs on OpenStack."""
