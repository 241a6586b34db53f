"""What does each route family read from a request, and which bytes does it answer with?"""
