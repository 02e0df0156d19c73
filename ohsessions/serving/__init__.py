"""daphne with the limits that production needs. It knows nothing of sessions."""
