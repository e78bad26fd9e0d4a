"""Will fusing help? What two fields tell of a third only together, measured on a person's own samples before training.

plain_numbers   raw items of any kind as rows of numbers
samples         those of a data set or of a synthetic task, in memory
critics         small scores of two sides, trained and asked on samples that they never saw
usable          nats with intervals, and the word that follows from them
questions       which critics answer what, and all of them side by side
report          a table, a picture, JSON
"""
