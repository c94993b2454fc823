"""How a running gateway is seen and reached: logs, status, metrics, HTTP, control socket, service manager."""
