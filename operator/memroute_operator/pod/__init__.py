"""The pod of one replica, as it is made."""
