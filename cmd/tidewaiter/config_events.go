package main

import (
	"fmt"
	"time"

	"github.com/tidewaiter/tidewaiter/notify"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/upstream"
)

type webhookConfig struct {
	Name                   string
	URL                    string
	SecretFile             string `mapstructure:"secret_file"`
	Types                  []string
	Repositories           []string
	CAFile                 string `mapstructure:"ca_file"`
	UnsafePrivateAddresses bool   `mapstructure:"unsafe_private_addresses"`
	Timeout                time.Duration
}

// webhooks returns who is told of events, and what is wrong with the patterns; the rest is for notify to tell.
func (c *config) webhooks() (webhooks []notify.Webhook, problems []error) {
	for i, w := range c.Webhooks {
		webhook := notify.Webhook{
			Name: w.Name, URL: w.URL, SecretFile: w.SecretFile, CAFile: w.CAFile, UnsafePrivateAddresses: w.UnsafePrivateAddresses,
			Timeout: w.Timeout, Control: upstream.RefusePrivate,
		}
		for _, t := range w.Types {
			webhook.Types = append(webhook.Types, notify.Type(t))
		}
		for _, s := range w.Repositories {
			p, err := oci.ParseFullPattern(s)
			if err != nil {
				problems = append(problems, fmt.Errorf("webhooks[%d]: repositories: %w", i, err))
			}
			webhook.Repositories = append(webhook.Repositories, p)
		}
		webhooks = append(webhooks, webhook)
	}
	return webhooks, problems
}

// webhookProblems returns what is wrong with webhooks.
func (c *config) webhookProblems() []error {
	webhooks, problems := c.webhooks()
	if err := notify.Check(webhooks); err != nil {
		problems = append(problems, err)
	}
	return problems
}

// checkWebhookFiles returns what is wrong with the files webhooks name.
func (c *config) checkWebhookFiles() error {
	webhooks, _ := c.webhooks()
	return notify.CheckFiles(webhooks)
}

// unsafeWebhooks returns which of them may be inside the network.
func (c *config) unsafeWebhooks() (on []string) {
	for i, w := range c.Webhooks {
		if w.UnsafePrivateAddresses {
			name := w.Name
			if name == "" {
				name = fmt.Sprintf("webhooks[%d]", i)
			}
			on = append(on, "unsafe_private_addresses of webhook "+name)
		}
	}
	return on
}
