"""``memroute plan``: does it fit, on what, for how many users, how fast, at what price?"""
