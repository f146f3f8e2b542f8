"""Jobs, flows, stores, executors, reports and the command line."""
