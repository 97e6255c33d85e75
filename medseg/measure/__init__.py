"""What is in a label map, and how close it comes to another one."""
