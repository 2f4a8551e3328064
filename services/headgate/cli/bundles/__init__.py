"""The life of a bundle: `headgate train`, `certify`, `evaluate`, `bundle inspect` and `bundle diff`.

data        the options that say which outcomes, and errors as sentences
train       outcomes in, a bundle out
certify     certificates for a bundle, in plain words
evaluate    a bundle, or the recipe beside its rivals, on queries it has not seen
inspect     what is in a bundle, and what differs between two
"""
