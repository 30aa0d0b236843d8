"""Break-evens and rates of the memory behind a device, beside what was published."""
