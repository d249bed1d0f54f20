DROP TABLE cial_paused_workflows;
DROP TABLE cial_task_lines;
DROP TABLE cial_tasks;
DROP TABLE cial_executions;
