"""Training in which the network tracks worlds itself.

At each place that it reaches, it learns the direction of the bundle that it follows. So
it learns to return from places to which its own errors lead, and to remember its
bundle. The bundles of the worlds must be known.
"""
