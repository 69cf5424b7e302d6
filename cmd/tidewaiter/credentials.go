package main

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/tidewaiter/tidewaiter/credential"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// credentialsConfig says what an upstream knows us by, in one of several ways.
type credentialsConfig struct {
	Username     string
	PasswordFile string `mapstructure:"password_file"`
	DockerConfig string `mapstructure:"docker_config"`
	Helper       string
	Exec         struct{ Command []string }
	Environment  []string
}

// fetched reports whether the credentials are not simply written in a file.
func (c credentialsConfig) fetched() bool {
	c.Username, c.PasswordFile = "", ""
	return !reflect.ValueOf(c).IsZero()
}

// dialled returns the upstreams to pull from, with the credentials that have to be fetched. Nothing is fetched yet.
func (c *config) dialled() ([]upstream.Config, error) {
	all := c.upstreams()
	var problems []error
	for i, u := range c.Upstreams {
		if !u.Credentials.fetched() {
			continue
		}
		found, err := credential.New(credential.Config{
			Registry: u.Host, URL: all[i].Address(), DockerConfig: u.Credentials.DockerConfig, Helper: u.Credentials.Helper,
			Command: u.Credentials.Exec.Command, Environment: u.Credentials.Environment,
		}, nil)
		if err != nil {
			problems = append(problems, fmt.Errorf("upstreams[%d] %s: credentials: %w", i, u.Host, err))
			continue
		}
		all[i].Credentials = found
	}
	return all, errors.Join(problems...)
}
