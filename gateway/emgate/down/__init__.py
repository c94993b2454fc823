"""What goes down to devices: requests, firmware updates, and what is sent of them when."""
