# The same commands for people who are used to make.
.PHONY: up down logs build tenant-build

up:
	cargo xtask local-up

down:
	cargo xtask local-down

logs:
	cargo xtask local-logs --follow

# Every image that the installation runs on.
build:
	cargo xtask local-up --build-only

# The tenant image alone.
tenant-build:
	cargo xtask images
