"""The tables of the results page, a function each, by what they are about."""
