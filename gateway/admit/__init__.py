"""May this request begin now, must it wait, or is it refused while that still helps the client?"""
