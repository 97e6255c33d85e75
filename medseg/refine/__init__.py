"""Labels made better by the image: a random field, and a fitted atlas."""
