DROP TABLE cial_workflows;
DROP TABLE cial_package_pieces;
DROP TABLE cial_packages;
