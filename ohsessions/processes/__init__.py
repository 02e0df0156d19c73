"""Our own processes, gateways and workers: their leases, their watch over each other, their store."""
