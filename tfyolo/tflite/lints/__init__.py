"""What each class of devices takes of TFLite's operators: a table a file, with the source of its facts.

rules holds what tables are made of, tflite.lint applies them.
"""
