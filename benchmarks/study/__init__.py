"""What synthesis does to trainings on the glyphs and on emoji."""
