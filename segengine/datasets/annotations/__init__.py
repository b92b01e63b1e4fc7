"""Files in which people have drawn objects: COCO, Label Studio, CVAT, labelme, QuPath."""
