"""What a TFLite file is made of: its flatbuffer and its metadata."""
