"""What have the policies brought about, and what follows from it?"""
