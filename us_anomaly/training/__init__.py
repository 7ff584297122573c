"""The training stages: distillation of the teacher, its statistics, and the students' regression."""
