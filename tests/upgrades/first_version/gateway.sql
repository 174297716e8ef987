INSERT INTO public.alembic_version VALUES
	('0001');
INSERT INTO public.users VALUES
	('01a22235-a2ac-706b-ab2e-1f8fcd352f01', 'ann@example.org', 'ann@example.org', '$argon2id$v=19$m=19456,t=2,p=1$JFDKGdmdyPfiaoDJ3GaOfg$b2Oa23dFuAb1LjxP3ywK4nWvV/26jlwrmwBl0RN6cQo', '2026-11-28 12:51:10.124254+00', '2026-11-28 12:51:10.257723+00');
INSERT INTO public.inbox VALUES
	('01a22235-af36-726e-89c3-5dd630754375', 'purchase_short_of_funds', '2026-11-28 12:51:13.386009+00'),
	('01a22235-b058-71f7-975d-30d5a8ca4c46', 'auto_topup_refused', '2026-11-28 12:51:13.812586+00'),
	('01a22235-b4bc-738c-b4a5-2d389c627742', 'wallet_credited', '2026-11-28 12:51:14.847739+00'),
	('01a22235-b5ee-7791-9985-6fc18a7e3609', 'purchase_completed', '2026-11-28 12:51:15.098039+00'),
	('01a22235-d276-728e-bf43-fac40fd29c1d', 'purchase_short_of_funds', '2026-11-28 12:51:22.395008+00'),
	('01a22235-d386-710e-9926-fcc7c9ee0894', 'wallet_credited', '2026-11-28 12:51:22.665181+00'),
	('01a22235-d461-7222-b37a-d2adcb49e229', 'purchase_completed', '2026-11-28 12:51:22.889971+00');
INSERT INTO public.notifications VALUES
	('01a22235-af6d-754f-8471-6564fc038ba1', '01a22235-a2ac-706b-ab2e-1f8fcd352f01', '01a22235-af36-726e-89c3-5dd630754375', 'purchase_short_of_funds', 'info', 'A purchase waits for credits', 'It costs $5.00 and you lack $5.00. It completes by itself as soon as your wallet covers it.', '/purchases/01a22235-ae5d-75ad-af63-a234d165b0b1', '2026-11-28 12:51:13.389384+00', NULL),
	('01a22235-b520-7672-a755-3d98e18baadf', '01a22235-a2ac-706b-ab2e-1f8fcd352f01', '01a22235-b4bc-738c-b4a5-2d389c627742', 'topup_credited', 'success', '$25.00 of credits arrived', 'Your balance is now $25.00.', '/dashboard/wallet', '2026-11-28 12:51:14.84816+00', NULL),
	('01a22235-b61b-753c-bcd4-e11f79b6c5a9', '01a22235-a2ac-706b-ab2e-1f8fcd352f01', '01a22235-b5ee-7791-9985-6fc18a7e3609', 'purchase_completed', 'success', 'VM-Starter is yours', 'The purchase is complete. $5.00 was taken from your wallet.', '/dashboard/deployments', '2026-11-28 12:51:15.099316+00', NULL),
	('01a22235-d29d-724e-beec-b19c7ee74d65', '01a22235-a2ac-706b-ab2e-1f8fcd352f01', '01a22235-d276-728e-bf43-fac40fd29c1d', 'purchase_short_of_funds', 'info', 'A purchase waits for credits', 'It costs $24.00 and you lack $4.00. It completes by itself as soon as your wallet covers it.', '/purchases/01a22235-d1fc-717d-a20e-f24eafe37900', '2026-11-28 12:51:22.397703+00', NULL),
	('01a22235-d3aa-7402-8f41-db41290ae242', '01a22235-a2ac-706b-ab2e-1f8fcd352f01', '01a22235-d386-710e-9926-fcc7c9ee0894', 'auto_topup_credited', 'success', 'Auto top-up charged $25.00', 'Your card was charged $25.00 automatically. Your balance is now $45.00.', '/dashboard/wallet', '2026-11-28 12:51:22.665986+00', NULL),
	('01a22235-d48c-7466-873a-e7fc05dc8332', '01a22235-a2ac-706b-ab2e-1f8fcd352f01', '01a22235-d461-7222-b37a-d2adcb49e229', 'purchase_completed', 'success', 'VM-Builder is yours', 'The purchase is complete. $24.00 was taken from your wallet.', '/dashboard/deployments', '2026-11-28 12:51:22.892063+00', NULL);
INSERT INTO public.user_sessions VALUES
	('01a22235-a2e2-7061-b937-90e3461445f7', '01a22235-a2ac-706b-ab2e-1f8fcd352f01', '\x2d684bfcd1a1dd286b4702ceeb3fff6a0a71ad3a2a3f00692dec8abafe090181', '2026-11-28 12:51:10.178157+00', '2026-11-28 12:51:10.178157+00', '2026-12-28 12:51:10.178157+00', NULL, '127.0.0.1', 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/156.0.0.0 Safari/537.36');
SELECT pg_catalog.setval('public.outbox_id_seq', 1, false);
