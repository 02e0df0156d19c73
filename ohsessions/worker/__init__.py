"""The worker: owns sessions, hosts their runtimes, puts them to sleep, and takes sessions over."""
