module github.com/tidewaiter/tidewaiter

go 1.26.3
