"""A procedural street world, rendered by ray casting and written in the data sets' own layouts.

Two domains share their layout and geometry and differ in appearance, as a simulator differs from
a camera on a car. Image, label, metric depth, right view and neighbouring frames agree exactly,
because every view is cast from one scene through one pinhole model.
"""
