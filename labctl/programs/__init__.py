"""Programs on hosts: started, their output kept, waited for, stopped."""
