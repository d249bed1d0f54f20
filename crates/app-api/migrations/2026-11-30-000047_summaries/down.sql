DROP TABLE summary_positions;
DROP TABLE conversation_summaries;
